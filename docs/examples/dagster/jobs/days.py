"""One job for many partitions, with a report of each."""
from dagster_pipes import open_dagster_pipes

with open_dagster_pipes() as pipes:
    for number, day in enumerate(pipes.get_extra('days')):
        pipes.report_custom_message({'partition': day, 'metadata': {'number': number}})
