"""The engine that serves everything: the operator in plain torch, as a sum of shifted maps or as dense convolutions."""
