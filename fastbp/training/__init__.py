"""Floor 3: what goes on around the engine's steps while networks are trained, scored and asked."""
