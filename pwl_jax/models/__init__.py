"""Networks cut into blocks, their specs, and the registry of teacher/student pairs."""
