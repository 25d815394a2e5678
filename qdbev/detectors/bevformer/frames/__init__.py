"""What goes into BEVFormer: batches of frames, ego motion, history, geometry."""
