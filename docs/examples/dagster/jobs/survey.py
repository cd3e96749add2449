"""A job that nobody waits for. It names its asset, for there is no step to which it belongs."""
from dagster_pipes import open_dagster_pipes

with open_dagster_pipes() as pipes:
    pipes.report_asset_materialization(asset_key='survey', metadata={'answers': 42})
