"""One file a method or a family of them; every file here is read when the first method is built."""
