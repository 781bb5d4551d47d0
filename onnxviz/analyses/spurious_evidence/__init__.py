"""Spurious evidence: classes that a network recognises by what is not their object."""
