"""Worker groups on Ray, which take run after run of a sweep or of a study."""
