"""The microVM: lifecycle services, tables of steps, reconcile."""
