"""The real `WebBackend`: pages over use cases and stores. One file per family of pages."""
