"""Container images as OCI archives from files alone: no root, no engine, no registry, and the same bytes each time.

Specification: OCI image format 1.1 (image-spec), as one tar of an image layout.
"""
