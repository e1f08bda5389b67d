"""The model: ladder, decoder, likelihoods."""
