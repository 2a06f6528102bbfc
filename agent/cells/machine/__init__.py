"""The life of one cell as a pure machine: ``step(life, event)`` gives the next life and the effects to carry out.

What belongs here: values (``state``, ``events``, ``effects``) and functions of them (``rules``, ``rollout``,
``phase``). No clock, no store, no cluster: time and what is durable come with each event, what is done is an effect,
and what became of it is the next event. What does not belong here: how an effect is carried out (``cells.hands``).

Read ``state`` first, then ``rules`` from ``step`` downwards. The table of transitions is docs/reference/cell-life.md.
``repairs`` is a second machine, for what is repaired of the cell and when: docs/reference/repairs.md.
"""
