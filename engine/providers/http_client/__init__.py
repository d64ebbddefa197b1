"""An HTTP/1.1 client: pooled, pipelined by callbacks."""
