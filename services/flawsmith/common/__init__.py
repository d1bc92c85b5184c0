"""What the four services share: settings, errors, manifests, rpc, operations, jobs, object store, telemetry."""
