"""One theorem is one page and one module that computes its constants.

The folder lies beside the book in the repository; installed, it is `ibau_lite.theory`.
"""
