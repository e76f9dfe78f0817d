"""Safetensors files whose tensors are packed."""
