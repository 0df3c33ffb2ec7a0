"""What speaks by itself: metrics for Prometheus, notifications, the report page, the evidence.

From outside: `metrics.write_verify`, `metrics.write_status`, `notifications.Notifier`,
`report_data.gather`, `report_page.render`, `evidence.collect`. Each library has one owner here:
`metrics` imports prometheus_client, `notifications` apprise, `report_charts` pygal, `report_page`
Jinja2.
"""
