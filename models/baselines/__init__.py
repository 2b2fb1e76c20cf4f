"""Methods that DC2Fusion is compared with; `models.build_model` builds them by name."""
