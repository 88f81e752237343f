-- The platform's apikey database: owned by postgres, its tables by the service's own role.
CREATE TABLE public.client (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL UNIQUE,
    redirect_uris text[] NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE public.key (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    client_id uuid NOT NULL REFERENCES public.client ON DELETE CASCADE,
    digest bytea NOT NULL,
    scopes jsonb NOT NULL DEFAULT '[]',
    expires_at timestamptz
);
CREATE TABLE public.token (
    key_id bigint NOT NULL REFERENCES public.key,
    issued_at timestamptz NOT NULL,
    value char(64) NOT NULL,
    PRIMARY KEY (key_id, issued_at)
);
CREATE INDEX token_value ON public.token USING hash (value);
ALTER TABLE public.client OWNER TO security_console;
ALTER TABLE public.key OWNER TO security_console;
ALTER TABLE public.token OWNER TO security_console;

INSERT INTO public.client (id, name, redirect_uris, created_at)
SELECT md5('client' || n)::uuid, 'client ' || n, ARRAY['https://' || n || '.example/callback'],
       timestamptz '2024-01-01 00:00:00+00' + n * interval '1 hour'
FROM generate_series(1, 40) n;
INSERT INTO public.key (client_id, digest, scopes, expires_at)
SELECT md5('client' || (n % 40 + 1))::uuid, sha256(n::text::bytea), jsonb_build_array('read', n),
       CASE WHEN n % 3 = 0 THEN timestamptz '2030-01-01 00:00:00+00' + n * interval '1 day' END
FROM generate_series(1, 400) n;
INSERT INTO public.token
SELECT n % 400 + 1, timestamptz '2024-06-01 00:00:00+00' + n * interval '1 minute', encode(sha256(n::text::bytea), 'hex')
FROM generate_series(1, 2000) n;
