"""RetinaNets as other frameworks write them, made with onnx alone around the tiny network of random_retinanet.py."""
