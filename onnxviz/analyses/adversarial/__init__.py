"""Photographs driven to wrong classes."""
