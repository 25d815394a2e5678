"""The commands, one module and one public function ``run`` each; same names as ``qdbev_cli.commands``."""
