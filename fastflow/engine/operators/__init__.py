"""The operators: each is registered with torch, with its fake, its backward and its vmap rule."""
