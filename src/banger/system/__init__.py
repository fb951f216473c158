"""banger as a service of the host: installed, updated and removed by an administrator."""
