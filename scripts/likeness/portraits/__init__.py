"""Finished pictures with the chosen LoRA: scenes, and the face in pictures of the user's."""
