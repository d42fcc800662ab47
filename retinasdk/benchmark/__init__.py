"""Times models, devices, precisions and input sizes in turn, and reports them side by side."""
