"""How each network is trained: one shared loop and a recipe per network."""
