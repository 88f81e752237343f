-- The platform's root database: 92 tables of an identity server, all owned by role keycloak in a database that is not.
-- The names are those that the server uses, the columns an outline: keys, references, indexes and rows in every table.
GRANT CREATE ON SCHEMA public TO keycloak;
SET ROLE keycloak;

CREATE FUNCTION pg_temp.make(names text[], extra text, refers_to text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY names LOOP
        EXECUTE format('CREATE TABLE public.%I (id varchar(36) NOT NULL, %s name varchar(255), value text,
                        enabled boolean DEFAULT false NOT NULL, created_timestamp bigint,
                        CONSTRAINT %I PRIMARY KEY (id))', name, extra, 'constraint_' || name);
        IF refers_to IS NOT NULL THEN
            EXECUTE format('ALTER TABLE public.%I ADD CONSTRAINT %I FOREIGN KEY (parent_id) REFERENCES public.%I (id)',
                           name, 'fk_' || name, refers_to);
            EXECUTE format('CREATE INDEX %I ON public.%I (parent_id)', 'idx_' || name || '_parent', name);
        END IF;
    END LOOP;
END $$;

SELECT pg_temp.make('{realm,databasechangelog,databasechangeloglock,migration_model,admin_event_entity,event_entity,
    broker_link,offline_user_session,offline_client_session,revoked_token}', '', NULL);
SELECT pg_temp.make('{client,user_entity,keycloak_role,keycloak_group,component,identity_provider,authentication_flow,
    authenticator_config,required_action_provider,client_scope,realm_attribute,realm_default_groups,
    realm_enabled_event_types,realm_events_listeners,realm_localizations,realm_required_credential,realm_smtp_config,
    realm_supported_locales,user_federation_provider,federated_user,fed_user_attribute,fed_user_consent,
    fed_user_credential,fed_user_group_membership,fed_user_required_action,fed_user_role_mapping,
    username_login_failure,user_session,client_initial_access,default_client_scope,org}',
    'parent_id varchar(36) NOT NULL,', 'realm');
SELECT pg_temp.make('{client_attributes,client_auth_flow_bindings,client_node_registrations,client_scope_client,
    client_default_roles,client_session,protocol_mapper,redirect_uris,resource_server,scope_mapping,web_origins,
    client_user_session_note}', 'parent_id varchar(36) NOT NULL,', 'client');
SELECT pg_temp.make('{credential,federated_identity,user_attribute,user_consent,user_group_membership,
    user_required_action,user_role_mapping,user_session_note,user_federation_config,user_federation_mapper}',
    'parent_id varchar(36) NOT NULL,', 'user_entity');
SELECT pg_temp.make('{resource_server_policy,resource_server_resource,resource_server_scope,resource_server_perm_ticket}',
    'parent_id varchar(36) NOT NULL,', 'resource_server');
SELECT pg_temp.make('{associated_policy,policy_config,resource_policy,scope_policy}',
    'parent_id varchar(36) NOT NULL,', 'resource_server_policy');
SELECT pg_temp.make('{resource_attribute,resource_scope,resource_uris}',
    'parent_id varchar(36) NOT NULL,', 'resource_server_resource');
SELECT pg_temp.make('{client_session_auth_status,client_session_note,client_session_prot_mapper,client_session_role}',
    'parent_id varchar(36) NOT NULL,', 'client_session');
SELECT pg_temp.make('{identity_provider_config,identity_provider_mapper,idp_mapper_config}',
    'parent_id varchar(36) NOT NULL,', 'identity_provider');
SELECT pg_temp.make('{composite_role,role_attribute}', 'parent_id varchar(36) NOT NULL,', 'keycloak_role');
SELECT pg_temp.make('{group_attribute,group_role_mapping}', 'parent_id varchar(36) NOT NULL,', 'keycloak_group');
SELECT pg_temp.make('{component_config}', 'parent_id varchar(36) NOT NULL,', 'component');
SELECT pg_temp.make('{authentication_execution,authenticator_config_entry,required_action_config}',
    'parent_id varchar(36) NOT NULL,', 'authentication_flow');
SELECT pg_temp.make('{protocol_mapper_config,client_scope_attributes,client_scope_role_mapping}',
    'parent_id varchar(36) NOT NULL,', 'protocol_mapper');
-- A cycle, as the real schema has it: no order of loading data satisfies both at once.
ALTER TABLE public.realm ADD COLUMN master_admin_client varchar(36);

DO $$
DECLARE
    made record;
BEGIN
    -- Tables were made parents first, and oids rise.
    FOR made IN SELECT c.oid::regclass AS name, EXISTS (SELECT FROM pg_attribute a
                       WHERE a.attrelid = c.oid AND attname = 'parent_id') AS refers
                FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY c.oid LOOP
        EXECUTE format('INSERT INTO %s (id, %s name, value, enabled, created_timestamp)
                        SELECT n, %s ''name '' || n, md5(n::text) || E''\ttab\\nline\\\\ € 🐘'', n %% 2 = 0,
                        1700000000000 + n FROM generate_series(1, 30) n',
                       made.name, CASE WHEN made.refers THEN 'parent_id,' END, CASE WHEN made.refers THEN 'n % 30 + 1,' END);
    END LOOP;
END $$;
UPDATE public.realm SET master_admin_client = id;
ALTER TABLE public.realm ADD CONSTRAINT fk_traf444kk6qrkms7n56aiwq5y
    FOREIGN KEY (master_admin_client) REFERENCES public.client (id);
CREATE UNIQUE INDEX uk_user_name ON public.user_entity (parent_id, lower(name), id);
CREATE INDEX idx_event_time ON public.event_entity (created_timestamp DESC) WHERE enabled;
DROP FUNCTION pg_temp.make(text[], text, text);
