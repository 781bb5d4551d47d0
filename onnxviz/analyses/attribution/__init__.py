"""Attribution: where the evidence for a score lies, by many methods, and whether to believe them."""
