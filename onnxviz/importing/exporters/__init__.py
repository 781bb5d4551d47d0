"""What turns models of other frameworks into ONNX, run in a process of its own in a Python that has the framework.

That Python may have no onnxviz: these files use nothing but each other and what the framework needs.
"""
