"""CenterPoint on pillars for the synthetic scenes: LiDAR alone, 0.8 m pillars, few channels. An mmdet3d config."""

class_names = [
    "car", "truck", "construction_vehicle", "bus", "trailer",
    "barrier", "motorcycle", "bicycle", "pedestrian", "traffic_cone",
]  # fmt: skip
point_cloud_range = [-51.2, -51.2, -5.0, 51.2, 51.2, 3.0]
pillar = [0.8, 0.8, 8.0]
grid = 128  # pillars along x and y

model = dict(
    type="CenterPoint",
    data_preprocessor=dict(
        type="Det3DDataPreprocessor",
        voxel=True,
        voxel_layer=dict(
            max_num_points=10, max_voxels=(8000, 8000), voxel_size=pillar, point_cloud_range=point_cloud_range
        ),
    ),
    pts_voxel_encoder=dict(
        type="PillarFeatureNet",
        in_channels=5,
        feat_channels=[16],
        voxel_size=pillar,
        point_cloud_range=point_cloud_range,
        legacy=False,
    ),
    pts_middle_encoder=dict(type="PointPillarsScatter", in_channels=16, output_shape=(grid, grid)),
    pts_backbone=dict(
        type="SECOND",
        in_channels=16,
        out_channels=[16, 32],
        layer_nums=[1, 1],
        layer_strides=[2, 2],
        norm_cfg=dict(type="BN"),
        conv_cfg=dict(type="Conv2d", bias=False),
    ),
    pts_neck=dict(
        type="SECONDFPN",
        in_channels=[16, 32],
        out_channels=[16, 16],
        upsample_strides=[1, 2],
        norm_cfg=dict(type="BN"),
        upsample_cfg=dict(type="deconv", bias=False),
        use_conv_for_no_stride=True,
    ),
    pts_bbox_head=dict(
        type="CenterHead",
        in_channels=32,
        share_conv_channel=16,
        tasks=[
            dict(num_class=1, class_names=["car"]),
            dict(num_class=2, class_names=["truck", "construction_vehicle"]),
            dict(num_class=2, class_names=["bus", "trailer"]),
            dict(num_class=1, class_names=["barrier"]),
            dict(num_class=2, class_names=["motorcycle", "bicycle"]),
            dict(num_class=2, class_names=["pedestrian", "traffic_cone"]),
        ],
        common_heads=dict(reg=(2, 2), height=(1, 2), dim=(3, 2), rot=(2, 2), vel=(2, 2)),
        separate_head=dict(type="SeparateHead", head_conv=16, init_bias=-2.19, final_kernel=3),
        bbox_coder=dict(
            type="CenterPointBBoxCoder",
            pc_range=point_cloud_range[:2],
            post_center_range=[-61.2, -61.2, -10.0, 61.2, 61.2, 10.0],
            max_num=50,
            score_threshold=0.01,
            out_size_factor=2,
            voxel_size=pillar[:2],
            code_size=9,
        ),
        loss_cls=dict(type="mmdet.GaussianFocalLoss", reduction="mean"),
        loss_bbox=dict(type="mmdet.L1Loss", reduction="mean", loss_weight=0.25),
        norm_bbox=True,
    ),
    train_cfg=dict(
        pts=dict(
            point_cloud_range=point_cloud_range,
            grid_size=[grid, grid, 1],
            voxel_size=pillar,
            out_size_factor=2,
            dense_reg=1,
            gaussian_overlap=0.1,
            max_objs=200,
            min_radius=2,
            code_weights=[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2],
        )
    ),
    test_cfg=dict(
        pts=dict(
            post_center_limit_range=[-61.2, -61.2, -10.0, 61.2, 61.2, 10.0],
            pc_range=point_cloud_range[:2],
            out_size_factor=2,
            voxel_size=pillar[:2],
            nms_type="circle",
            min_radius=[4, 12, 10, 1, 0.85, 0.175],
            post_max_size=40,
            max_per_img=200,
            score_threshold=0.01,
        )
    ),
)

load = [dict(type="LoadPointsFromFile", coord_type="LIDAR", load_dim=5, use_dim=5)]
cut = [dict(type="PointsRangeFilter", point_cloud_range=point_cloud_range)]
train_pipeline = [
    *load,
    dict(type="LoadAnnotations3D", with_bbox_3d=True, with_label_3d=True),
    dict(
        type="GlobalRotScaleTrans", rot_range=[-0.39, 0.39], scale_ratio_range=[0.95, 1.05], translation_std=[0, 0, 0]
    ),
    dict(type="RandomFlip3D", sync_2d=False, flip_ratio_bev_horizontal=0.5, flip_ratio_bev_vertical=0.5),
    *cut,
    dict(type="ObjectRangeFilter", point_cloud_range=point_cloud_range),
    dict(type="PointShuffle"),
    dict(type="Pack3DDetInputs", keys=["points", "gt_bboxes_3d", "gt_labels_3d"]),
]
test_pipeline = [*load, *cut, dict(type="Pack3DDetInputs", keys=["points"])]

dataset = dict(
    type="NuScenesDataset",
    box_type_3d="LiDAR",
    modality=dict(use_lidar=True, use_camera=False),
    metainfo=dict(classes=class_names),
    use_valid_flag=True,
)
train_dataloader = dict(dataset=dict(dataset, pipeline=train_pipeline))
test_dataloader = dict(dataset=dict(dataset, pipeline=test_pipeline))
