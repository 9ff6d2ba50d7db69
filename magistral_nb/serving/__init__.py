"""Getting a model server up, known and down."""
