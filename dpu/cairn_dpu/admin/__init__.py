"""The admin plane: HTTP over the service, read by people, dashboards and Prometheus. Nothing here touches a block."""
