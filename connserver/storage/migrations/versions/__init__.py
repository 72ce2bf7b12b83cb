"""One module per schema version; `schema.VERSION` names the last."""
