"""What a memory must stand: killed writers, a crowd, nonsense. In small in the tests, in full by `make torture`."""
