"""Real processes in network namespaces of their own: `cocoon swarm up --netns` and `cocoon swarm chaos`."""
