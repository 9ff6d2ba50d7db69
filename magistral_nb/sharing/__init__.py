"""One server for a class: an authenticated reverse proxy with a fair queue, in a process of its own."""
