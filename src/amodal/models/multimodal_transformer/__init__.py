"""The multimodal Transformer: image tokens and text in, text, answers or image tokens out."""
