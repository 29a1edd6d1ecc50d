"""One theorem, one page and one module that computes its constants (installed as ibau_lite.theory)."""
