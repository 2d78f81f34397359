"""Services on a store: search by text or image, predictions on raw rows, doctor, demo."""
