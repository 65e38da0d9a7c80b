"""The Cairn appliance service. People meet it as the command `cairn-dpu` (cli.py); nothing here is a public Python API."""
