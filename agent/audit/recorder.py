"""The recorder: see ``agent.audit.interfaces.RecorderPort`` for what it promises."""
