"""Floor 2: networks on disk and in other libraries' hands."""
