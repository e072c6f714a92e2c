"""Maps: label maps → images by a trained SemFlow, in place of prompts → images."""
