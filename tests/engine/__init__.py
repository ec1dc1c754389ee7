"""The engine alone, on virtual time, with fakes at every seam: what real connections reach only by luck."""
