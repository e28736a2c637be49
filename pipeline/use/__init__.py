"""What a finished run answers: predict and embed."""
