"""What happens around the network: preprocessing, decoding, suppression, and the types that pass between them."""
