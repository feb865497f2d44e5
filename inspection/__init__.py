"""Look at what a model does: a page that shows masked passages, guesses and judgements."""
