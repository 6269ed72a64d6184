from collab_agents.cli import main

main()
