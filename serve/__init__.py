"""What others call: questions in words or pictures, predictions on raw rows, the demo."""
