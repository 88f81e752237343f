-- The platform's cost_server database: sums per hour and day, and a sequence that has moved on.
CREATE TABLE public.resource_type (id serial PRIMARY KEY, name text NOT NULL UNIQUE, unit text NOT NULL);
CREATE TABLE public.cost_hourly (
    project text NOT NULL, resource_type_id int NOT NULL REFERENCES public.resource_type,
    at timestamptz NOT NULL, amount numeric(20, 6) NOT NULL, PRIMARY KEY (project, resource_type_id, at)
);
CREATE TABLE public.cost_daily (
    project text NOT NULL, resource_type_id int NOT NULL REFERENCES public.resource_type,
    day date NOT NULL, amount numeric(20, 6) NOT NULL, PRIMARY KEY (project, resource_type_id, day)
);
INSERT INTO public.resource_type (name, unit) VALUES ('cpu', 'core·h'), ('memory', 'GiB·h'), ('gpu', '卡时');
SELECT setval('public.resource_type_id_seq', 41);
INSERT INTO public.cost_hourly
SELECT 'project-' || p, r, timestamptz '2025-03-01 00:00:00+00' + h * interval '1 hour', (p * r * h) / 7.0
FROM generate_series(1, 10) p, generate_series(1, 3) r, generate_series(0, 71) h;
INSERT INTO public.cost_daily
SELECT project, resource_type_id, (at AT TIME ZONE 'UTC')::date, sum(amount) FROM public.cost_hourly GROUP BY 1, 2, 3;
