"""Files that are made from other files: stubs, the OpenAPI document, the reference pages.

Here belongs what turns a source of truth into a committed file. What is written by hand (tutorials, how-to guides,
explanations) does not.
"""
