"""Hand-over: a model as one GGUF file for llama.cpp, or as an ONNX graph for onnxruntime."""
