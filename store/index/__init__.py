"""Vector indexes by FAISS: built, kept fresh, measured, asked."""
