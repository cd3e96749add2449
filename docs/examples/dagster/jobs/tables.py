"""One job, two assets, and a check of one of them."""
from dagster_pipes import open_dagster_pipes

with open_dagster_pipes() as pipes:
    pipes.report_asset_materialization(asset_key='customers', metadata={'rows': 3})
    pipes.report_asset_materialization(asset_key='orders', metadata={'rows': 7})
    pipes.report_asset_check('orders_have_customers', passed=True, asset_key='orders', metadata={'strangers': 0})
